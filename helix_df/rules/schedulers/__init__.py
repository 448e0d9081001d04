"""Ways to choose pipelines, to be compared with the plan's flow."""
