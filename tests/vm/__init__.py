"""A virtual machine whose processor has what this one may lack: protection keys."""
