"""Steps at work: which runs next, where there is room, the workers on Ray, and what is said of it all."""
