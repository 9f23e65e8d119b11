"""The shortest way from a checkpoint to the label of one photograph, with resforward.

python first_answer_resforward.py CHECKPOINT IMAGE
"""

import sys

import resforward as rf

checkpoint, photograph = sys.argv[1:]
print(rf.load(checkpoint).predict(photograph, top=1)[0].label)
