"""The values of label maps other than class indices."""

IGNORED = 255  # the label that neither loss nor score looks at; data sets map their own to it on reading

# Shares of ignored pixels. Data sets that are labelled throughout have few: Cityscapes 12%, CamVid 4%. Scribbles, the
# sparsest labels in common use, leave 97%: that is worth a word. Beyond 99.5%, an image of 480 x 360 has fewer than
# 900 labelled pixels: hardly anybody means that.
MANY_IGNORED, NEARLY_ALL_IGNORED = 0.5, 0.995


def percent(share: float) -> str:
    """Return 0.123 as "12.30". A tiny share is not shown as 0, and a share just below 1 is not shown as 100."""
    if 0 < share < 1e-4:
        return "<0.01"
    if 1 - 1e-4 < share < 1:
        return ">99.99"
    return "0" if share == 0 else f"{100 * share:.2f}"
