"""From files to arrays: validated interactions, their graph, samplers, prompts and batches.

`sources.load_interactions` is the door: it reads what a `DataConfig` names and keeps it as ArrayRecord files.

    sources            chooses a reader, checks the options, keeps prepared sets
    reference_layout   reader of the TokenRec folder layout
    interaction_files  reader of own CSV, TSV, JSON lines and Parquet files
    interaction_columns   what their columns may hold
    movielens          MovieLens from a package or through TFDS
    synthetic          a made-up data set with planted structure
    interaction_table  filters that all raw sources share
    interactions       `Interactions`: the one form that everything else reads
    tfds_builders      the prepared form
    files              text with line numbers, folders that appear whole
    graph, sampling, vocabulary, prompts, batches   what training and evaluation make of it

No model and no loss lives here.
"""
