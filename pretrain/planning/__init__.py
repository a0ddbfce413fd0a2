"""What a training will take: memory, time, readers, network, disk and money, before it starts."""
