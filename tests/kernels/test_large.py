"""Paths that only large inputs reach: samples, rows and particles of several blocks, images shared by programs."""


def test_large_inputs_agree_with_the_reference(run_script):
    results = run_script("compare_large.py", interpret=True)
    assert len(results) == 27
    assert [result for result in results if not result["error"] < 1e-12] == []
