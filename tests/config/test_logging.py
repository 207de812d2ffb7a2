"""No number of a person and no secret stands in a log line, wherever it hides."""

from config.logging import mask


def test_numbers_and_secrets_are_masked_everywhere():
    line = {
        "text": "电话13812345678，证号44020019000101001X，440203197002010004。",
        "url": "https://x/cgi?access_token=abc&openid=o1&code=123",
        "nested": [{"password": "p", "phone": "13812345678"}],
        "api_v3_key": "k",
    }
    assert mask(line) == {
        "text": "电话138****5678，证号440***********001X，440***********0004。",
        "url": "https://x/cgi?access_token=***&openid=o1&code=***",
        "nested": [{"password": "***", "phone": "138****5678"}],
        "api_v3_key": "***",
    }


def test_a_case_number_is_not_mistaken_for_a_person():
    number = "1144020099900002174440709904000202611240001"
    assert mask(number) == number
