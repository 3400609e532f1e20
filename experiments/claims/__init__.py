"""The claims of the papers, the language of their rules, and the verdicts on them."""

from experiments.claims.claim import CLAIMS as CLAIMS
from experiments.claims.claim import Claim as Claim
from experiments.claims.claim import claims as claims
from experiments.claims.claim import load as load
from experiments.claims.verdict import WORDS as WORDS
from experiments.claims.verdict import Verdict as Verdict
from experiments.claims.verdict import judge as judge
from experiments.claims.verdict import verdicts as verdicts
from experiments.claims.verdict import verdicts_of as verdicts_of
