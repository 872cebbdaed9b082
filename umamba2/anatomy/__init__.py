"""What a scan of the mouth can show: names, ids, groups. Needs numpy alone."""
