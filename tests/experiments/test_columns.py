from experiments.columns import columns


def test_cells_end_where_their_column_does():
    lines = [["name", "s"], ["a", "12.5"]]
    assert columns(iter(lines)) == "name     s\n   a  12.5"
