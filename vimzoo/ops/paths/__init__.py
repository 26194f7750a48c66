"""`ScanPath`: the order in which a scan visits the tokens of a grid."""
