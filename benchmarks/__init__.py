"""The measurements that the README quotes: one module, one command."""
