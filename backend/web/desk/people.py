"""Find people, and look at what is held about one."""
