"""Where stages run: in this process, in a pool of processes on this machine."""
