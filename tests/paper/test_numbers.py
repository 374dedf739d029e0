"""paper.numbers: all marks are known, and sums and columns agree."""

import config
from paper import numbers
from paper.numbers import MARKS, TABLE1, TABLE1_ROWS, TABLE2, TABLE2_TOTAL, TABLE3, TABLE4, TABLE4_COLUMNS, Number


def numbers_in(value):
    if isinstance(value, Number):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(part)


def test_every_number_has_a_mark():
    found = list(numbers_in({name: value for name, value in vars(numbers).items() if name.isupper()}))
    assert len(found) > 150 and {number.mark for number in found} <= set(MARKS)
    assert all(number.value > 0 for number in found)
    assert all(number.deviation is None or 0 < number.deviation < number.value for number in found)


def test_table_1_has_all_rows_of_the_experiments():
    letters = [letter for letter, _text in TABLE1_ROWS.values()]
    for dataset, rows in TABLE1.items():
        assert list(rows) == letters
        for name in TABLE1_ROWS:
            assert any(dataset.split('-')[0] in experiment and name in experiment for experiment in config.experiments)


def test_table_2_adds_up():
    assert {net: sum(counts) for net, counts in TABLE2.items()} == TABLE2_TOTAL
    # Each resolution has a toRGB in G and a fromRGB in D, with 512, 512, 512, 512, 256, ..., 16 channels.
    channels = [*[512] * 4, 256, 128, 64, 32]
    assert numbers.TABLE2_TOTAL_ALL == {
        'G': TABLE2_TOTAL['G'] + sum(3 * count + 3 for count in channels),
        'D': TABLE2_TOTAL['D'] + sum(3 * count + count for count in channels)}


def test_the_best_of_table_3_is_the_papers():
    scores = dict(TABLE3['unsupervised'])
    assert max(scores, key=lambda name: scores[name].value) == 'Progressive GAN, best run'


def test_table_4_has_a_number_per_column():
    for columns in TABLE4.values():
        assert [len(numbers) for numbers in columns.values()] == [len(TABLE4_COLUMNS)] * 2
        # More modes mean a smaller divergence.
        best = max(range(len(TABLE4_COLUMNS)), key=lambda index: columns['modes'][index].value)
        assert columns['KL'][best].value < columns['KL'][0].value
