"""From studies to batches of crops: settings, order, crop plans, crops on CPU or device, masks, loader."""
