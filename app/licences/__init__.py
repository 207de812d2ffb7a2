"""Electronic licences (电子证照): what a finished case puts into the resident's wallet, and their reuse as material."""
