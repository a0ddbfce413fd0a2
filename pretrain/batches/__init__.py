"""From studies to batches of crops: order, crop plans, masks, collation."""
