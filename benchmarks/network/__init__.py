"""What workers send each other in a step under each ZeRO stage, and the memory of each, against the plan."""
