"""Applications (办件): forms, materials, life cycle, deadlines, review by departments."""
