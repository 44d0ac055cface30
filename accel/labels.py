"""What label maps hold beside class indices."""

IGNORED = 255  # the label that neither loss nor score looks at; data sets map their own to it on reading
