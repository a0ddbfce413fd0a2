"""Does a backbone recognize a patient across projections? Retrieval, correspondence, attention, synthesis."""
