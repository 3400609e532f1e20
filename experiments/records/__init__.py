"""Records of runs: one record, the file that holds it, statistics over seeds, and the origin of a record."""

from experiments.records.ledger import Ledger as Ledger
from experiments.records.ledger import append as append
from experiments.records.ledger import check_writable as check_writable
from experiments.records.ledger import path_of as path_of
from experiments.records.ledger import read as read
from experiments.records.ledger import rewrite as rewrite
from experiments.records.record import Record as Record
from experiments.records.statistics import Estimate as Estimate
from experiments.records.statistics import accuracy as accuracy
from experiments.records.statistics import aggregate as aggregate
from experiments.records.statistics import estimate as estimate
from experiments.records.statistics import failed_to_train as failed_to_train
from experiments.records.statistics import paired_difference as paired_difference
