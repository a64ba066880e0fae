"""What a sweep calls the folders of its bundles, for whoever only looks where they are."""

TRIALS_FOLDER = "trials"
BEST_FOLDER = "best"
BY_METHOD = "by_method"
FRONTS = "fronts"
