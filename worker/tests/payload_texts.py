"""Payloads written in ways that nobody expects, each with its plain task id and the one that a JSON parser finds."""

from __future__ import annotations

ODD_PAYLOADS = [
    ('{"task_id":"t1"}', "t1", "t1"),
    ('{"task_id": "t1", "input": ""}', "t1", "t1"),
    ('{"task_id":"a_B.9:@-"}', "a_B.9:@-", "a_B.9:@-"),
    ('{"input":"","task_id":"t1"}', "", "t1"),
    ('{ "task_id":"t1"}', "", "t1"),
    (' {"task_id":"t1"}', "", "t1"),
    ('{"task_id" :"t1"}', "", "t1"),
    ('{"task_id":  "t1"}', "", "t1"),
    ('{"task_id":\n"t1"}', "", "t1"),
    (r'{"task_id":"t\u0031"}', "", "t1"),
    (r'{"task\u005fid":"t1"}', "", "t1"),
    (r'{"task_id":"a\"b"}', "", 'a"b'),
    (r'{"task_id":"é"}', "", "é"),
    (r'{"task_id":"\ud800"}', "", ""),
    # By the whole the last one counts; by its beginning nobody runs it: see the fetcher.
    ('{"task_id":"t1","task_id":"t2"}', "t1", "t2"),
    ('{"task_id":"t1"', "t1", ""),
    ('{"task_id":""}', "", ""),
    ('{"task_id":7}', "", ""),
    ('{"task_id":null}', "", ""),
    ('{"task_id":"index"}', "", ""),
    ('{"task_id":"by_time"}', "", ""),
    ('{"task_id":"ended"}', "", ""),
    (f'{{"task_id":"{200 * "x"}"}}', 200 * "x", 200 * "x"),
    (f'{{"task_id":"{201 * "x"}"}}', "", ""),
    ('["task_id"]', "", ""),
    ("", "", ""),
    (100_000 * "[", "", ""),
]
