"""电子监察: how near a case is to its deadline. KPIs, cards and open data build on the same lamps."""
