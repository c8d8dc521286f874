"""Telling source from target features: what `domain_gap` and `dev` both stand on."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def target_probability(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Probability that a row is the target's, from a classifier that has not seen it; source rows first."""
    features = np.concatenate([source, target]).astype(np.float64)
    domain = np.repeat([0, 1], [len(source), len(target)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    fewest = max(2, min(5, len(source), len(target)))
    folds = StratifiedKFold(fewest, shuffle=True, random_state=0)
    return cross_val_predict(classifier, features, domain, cv=folds, method="predict_proba")[:, 1]
