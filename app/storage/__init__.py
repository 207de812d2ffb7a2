"""MongoDB (the only truth), Redis (may lose everything), files, the transactional outbox and its relay."""
