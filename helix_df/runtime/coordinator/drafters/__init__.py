"""Who drafts tokens of answers, a file each; none of them decides what an answer is."""
