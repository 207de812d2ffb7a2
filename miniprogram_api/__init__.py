"""HTTP for the two mini-programs: sign-in, phone, message templates and grants, message push."""
