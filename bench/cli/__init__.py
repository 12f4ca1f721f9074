"""What is typed: one module a group of commands."""
