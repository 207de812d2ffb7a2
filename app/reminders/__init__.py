"""Days that matter to a person: kept, and told of in time."""
