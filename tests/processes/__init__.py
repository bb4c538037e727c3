"""Many processes, one store: forks, hundreds of attachments, containers, stopped and dying processes, signals."""
