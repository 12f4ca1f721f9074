// CUDA's runtime, driver and cuBLAS for a machine without a GPU: kernels do nothing.
//
// Loaded before torch's own (LD_PRELOAD), it lets everything on the host's side of a GPU run as it
// is: torch's dispatch, caching allocator, streams, events, CUDA graphs, Triton's compiler.  Memory
// is address space that nobody touches, so a 48 GB card fits anywhere.  Small copies are made,
// large ones are not; all other numbers are nonsense.  What a graph's capture forbids is refused.
// Functions that are not here succeed and do nothing: build.py.

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

#define API extern "C" __attribute__((visibility("default")))

namespace {

// NVIDIA L20, the papers' card, as torch sees its 48 GB.
constexpr int MAJOR = 8, MINOR = 9, PROCESSORS = 92, SHARED = 101376;
constexpr int BUILT_FOR = 86;  // the nearest that torch's kernels are compiled for
const size_t TOTAL = size_t(44.5 * (1 << 30));
constexpr size_t COPIED = 1 << 20;  // larger ones would fill the memory of this machine

struct Graph {
  size_t nodes = 0;
};
struct Capture {
  unsigned long long id;
  Graph* graph;
};
struct Event {
  double at = 0;
};

std::mutex mutex;  // of all that follows
std::map<const char*, size_t> on_card, pinned;
std::map<cudaStream_t, Capture> captures;
unsigned long long captures_begun = 0;
size_t used = 0;

thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

using Guard = std::lock_guard<std::mutex>;

cudaError_t unless_capturing() {
  Guard guard(mutex);
  bool capturing = !captures.empty() && capture_mode != cudaStreamCaptureModeRelaxed;
  return capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

bool within(const std::map<const char*, size_t>& blocks, const void* pointer) {
  auto next = blocks.upper_bound(static_cast<const char*>(pointer));
  if (next == blocks.begin()) return false;
  auto [start, size] = *std::prev(next);
  return pointer < start + size;
}

// Anything given to a stream; in a capture it becomes a node of the graph.
cudaError_t enqueue(cudaStream_t stream) {
  Guard guard(mutex);
  if (auto found = captures.find(stream); found != captures.end()) found->second.graph->nodes++;
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes) {
  if (bytes <= COPIED) memcpy(to, from, bytes);
  return cudaSuccess;
}

double now() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

int attribute(int wanted) {  // the driver numbers them as the runtime does
  switch (wanted) {
    case cudaDevAttrComputeCapabilityMajor: return MAJOR;
    case cudaDevAttrComputeCapabilityMinor: return MINOR;
    case cudaDevAttrMultiProcessorCount: return PROCESSORS;
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 1536;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return SHARED + 1024;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrTextureAlignment: return 512;
    case cudaDevAttrGlobalMemoryBusWidth: return 384;
    default: return 0;
  }
}

}  // namespace

// The card

API cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
API cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr wanted, int) {
  return *value = attribute(wanted), cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}
#undef cudaGetDeviceProperties
#if CUDART_VERSION < 13000
#define cudaGetDeviceProperties cudaGetDeviceProperties_v2
#endif
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  strcpy(properties->name, "Fake L20");
  memset(properties->uuid.bytes, 1, sizeof properties->uuid.bytes);
  properties->totalGlobalMem = TOTAL;
  properties->major = MAJOR;
  properties->minor = MINOR;
  properties->multiProcessorCount = PROCESSORS;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->maxThreadsPerMultiProcessor = 1536;
  properties->maxBlocksPerMultiProcessor = 24;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->sharedMemPerBlock = 49152;
  properties->sharedMemPerBlockOptin = SHARED;
  properties->sharedMemPerMultiprocessor = SHARED + 1024;
  properties->textureAlignment = 512;
  properties->l2CacheSize = 96 << 20;
  return cudaSuccess;
}

API const char* cudaGetErrorName(cudaError_t) { return "an error of the fake CUDA"; }
API const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorMemoryAllocation) return "out of memory";
  if (error == cudaErrorStreamCaptureUnsupported) return "not permitted when stream is capturing";
  return "an error of the fake CUDA";
}

// Memory

API cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (auto error = unless_capturing()) return error;
  Guard guard(mutex);
  if (used + bytes > TOTAL) return cudaErrorMemoryAllocation;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  *pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (*pointer == MAP_FAILED) return cudaErrorMemoryAllocation;
  on_card[static_cast<char*>(*pointer)] = bytes;
  used += bytes;
  return cudaSuccess;
}

API cudaError_t cudaFree(void* pointer) {
  Guard guard(mutex);
  if (auto found = on_card.find(static_cast<char*>(pointer)); found != on_card.end()) {
    munmap(pointer, found->second);
    used -= found->second;
    on_card.erase(found);
  }
  return cudaSuccess;
}

API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Guard guard(mutex);
  return *free = TOTAL - used, *total = TOTAL, cudaSuccess;
}

API cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  Guard guard(mutex);
  return pinned[static_cast<char*>(pointer)] = bytes, cudaSuccess;
}
API cudaError_t cudaHostUnregister(void* pointer) {
  Guard guard(mutex);
  return pinned.erase(static_cast<char*>(pointer)), cudaSuccess;
}
API cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return cudaHostRegister(*pointer, bytes, flags);
}
API cudaError_t cudaFreeHost(void* pointer) {
  cudaHostUnregister(pointer);
  return free(pointer), cudaSuccess;
}

API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* pointer) {
  Guard guard(mutex);
  *found = {};
  auto* whose = const_cast<void*>(pointer);
  if (within(on_card, pointer)) {
    found->type = cudaMemoryTypeDevice, found->devicePointer = whose;
  } else if (within(pinned, pointer)) {
    found->type = cudaMemoryTypeHost, found->hostPointer = whose;
  }
  return cudaSuccess;
}

API cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (auto error = unless_capturing()) return error;
  return copy(to, from, bytes);
}

API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToHost) {
    const void* host = kind == cudaMemcpyHostToDevice ? from : to;
    bool pageable = (mutex.lock(), !within(pinned, host));
    mutex.unlock();
    if (auto error = pageable ? unless_capturing() : cudaSuccess) return error;
  }
  enqueue(stream);
  // Somebody asks whether all numbers are finite, the only question of a decode: yes.
  if (kind == cudaMemcpyDeviceToHost && bytes == 1) return memset(to, true, 1), cudaSuccess;
  return copy(to, from, bytes);
}

API cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes <= COPIED) memset(to, value, bytes);
  return enqueue(stream);
}

// Streams, events and graphs

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return *stream = reinterpret_cast<cudaStream_t>(new char), cudaSuccess;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return unless_capturing(); }
API cudaError_t cudaDeviceSynchronize() { return unless_capturing(); }

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = reinterpret_cast<cudaEvent_t>(new Event), cudaSuccess;
}
API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return delete reinterpret_cast<Event*>(event), cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t, unsigned) {
  return reinterpret_cast<Event*>(event)->at = now(), cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}
API cudaError_t cudaEventQuery(cudaEvent_t) { return unless_capturing(); }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { return unless_capturing(); }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  double from = reinterpret_cast<Event*>(start)->at, to = reinterpret_cast<Event*>(end)->at;
  if (!from || !to) return cudaErrorInvalidResourceHandle;
  return *ms = float(to - from), cudaSuccess;
}

API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return std::swap(capture_mode, *mode), cudaSuccess;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream) return cudaErrorStreamCaptureUnsupported;
  Guard guard(mutex);
  return captures[stream] = {++captures_begun, new Graph}, cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Guard guard(mutex);
  auto found = captures.find(stream);
  if (found == captures.end()) return *graph = nullptr, cudaErrorIllegalState;
  *graph = reinterpret_cast<cudaGraph_t>(found->second.graph);
  return captures.erase(found), cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Guard guard(mutex);
  bool capturing = captures.count(stream);
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
// Its name and its last arguments change with CUDA's version; no caller here wants those.
cudaError_t capture_of(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                       cudaGraph_t* graph, size_t* dependencies) {
  cudaStreamIsCapturing(stream, status);
  Guard guard(mutex);
  auto found = captures.find(stream);
  bool capturing = found != captures.end();
  if (id) *id = capturing ? found->second.id : 0;
  if (graph) *graph = capturing ? reinterpret_cast<cudaGraph_t>(found->second.graph) : nullptr;
  if (dependencies) *dependencies = 0;
  return cudaSuccess;
}
#undef cudaStreamGetCaptureInfo
#if CUDART_VERSION >= 13000
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                         unsigned long long* id, cudaGraph_t* graph,
                                         const cudaGraphNode_t**, const cudaGraphEdgeData**,
                                         size_t* dependencies) {
  return capture_of(stream, status, id, graph, dependencies);
}
#else
API cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long* id, cudaGraph_t* graph,
                                            const cudaGraphNode_t**, size_t* dependencies) {
  return capture_of(stream, status, id, graph, dependencies);
}
#endif

API cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  return *made = reinterpret_cast<cudaGraphExec_t>(graph), cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph,
                                              unsigned long long flags) {
  return cudaGraphInstantiate(made, graph, flags);
}
API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  return *count = reinterpret_cast<Graph*>(graph)->nodes, cudaSuccess;
}

// Kernels

API cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return enqueue(stream);
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return enqueue(stream);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void*, void**) {
  return enqueue(how->stream);
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  return *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function)), cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  *found = {};
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->ptxVersion = found->binaryVersion = BUILT_FOR;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                       size_t, unsigned) {
  return *blocks = 2, cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  return *blocks = 2, cudaSuccess;
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                 unsigned long long,
                                                 cudaDriverEntryPointQueryResult* found) {
  *function = dlsym(RTLD_DEFAULT, name);
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// cuBLAS, whose products do nothing: the handle, and an algorithm for each product

API int cublasCreate_v2(void** handle) { return *handle = new char, 0; }
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*,
                                       int* found) {
  return *found = 1, 0;
}

// The driver, for Triton

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute wanted, CUdevice) {
  return *value = attribute(wanted), CUDA_SUCCESS;
}
API CUresult cuDriverGetVersion(int* version) { return *version = CUDART_VERSION, CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult, const char** text) {
  return *text = "an error of the fake CUDA", CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext* context) {
  return *context = reinterpret_cast<CUcontext>(1), CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice* device) { return *device = 0, CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
API CUresult cuCtxGetLimit(size_t* value, CUlimit) { return *value = 1 << 20, CUDA_SUCCESS; }
API CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
API CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned*, int* active) {
  return *active = 1, CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  return cuCtxGetCurrent(context);
}
API CUresult cuModuleLoadData(CUmodule* module, const void*) {
  return *module = reinterpret_cast<CUmodule>(new char), CUDA_SUCCESS;
}
API CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char*) {
  return *function = reinterpret_cast<CUfunction>(new char), CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute wanted, CUfunction) {
  bool registers = wanted == CU_FUNC_ATTRIBUTE_NUM_REGS;
  bool threads = wanted == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
  return *value = registers ? 32 : threads ? 1024 : 0, CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
API CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                            unsigned, CUstream stream, void**, void**) {
  return enqueue(stream), CUDA_SUCCESS;
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig* how, CUfunction, void**, void**) {
  return enqueue(how->hStream), CUDA_SUCCESS;
}
API CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  return cudaStreamIsCapturing(stream, reinterpret_cast<cudaStreamCaptureStatus*>(status)),
         CUDA_SUCCESS;
}
API CUresult cuPointerGetAttribute(void* value, CUpointer_attribute, CUdeviceptr pointer) {
  return *static_cast<CUdeviceptr*>(value) = pointer, CUDA_SUCCESS;
}
