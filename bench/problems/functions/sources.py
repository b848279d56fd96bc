"""Whom the functions' entries cite more than once."""

MORE = "Moré, Garbow & Hillstrom, ACM TOMS 7(1), 1981 (start M)"
JAMIL = "Jamil & Yang, arXiv 1308.4008, 2013; values recomputed"
