"""HTTP: the hall API, staff, pages and the live stream."""
