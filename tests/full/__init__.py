"""What a full disk, a quota, a failing system call and a strange file system do to a store."""
