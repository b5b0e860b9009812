"""Raw footage to a clip store, one source set a file."""
