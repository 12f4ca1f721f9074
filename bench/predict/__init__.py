"""What shapes alone say: FLOPs, bytes, memory, floors."""
