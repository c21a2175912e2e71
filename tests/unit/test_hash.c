/* Hashes: published vectors, because formats depend on them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/hash.h"
#include "common/base/text.h"

static void murmur3_has_its_known_values(void **state)
{
    (void)state;
    assert_int_equal(hash_murmur3_32("", 0, 0), 0);
    assert_int_equal(hash_murmur3_32("", 0, 1), 0x514e28b7);
    assert_int_equal(hash_murmur3_32("", 0, 0xffffffff), 0x81f16f39);
    assert_int_equal(hash_murmur3_32("\xff\xff\xff\xff", 4, 0), 0x76293b50);
    assert_int_equal(hash_murmur3_32("\x21\x43\x65\x87", 4, 0), 0xf55b516b);
    assert_int_equal(hash_murmur3_32("\x21\x43\x65\x87", 4, 0x5082edee), 0x2362f9de);
    assert_int_equal(hash_murmur3_32("\x21\x43\x65", 3, 0), 0x7e4a8634);
    assert_int_equal(hash_murmur3_32("\x21\x43", 2, 0), 0xa0f7b07a);
    assert_int_equal(hash_murmur3_32("\x21", 1, 0), 0x72661cf4);
    assert_int_equal(hash_murmur3_32("aaaa", 4, 0x9747b28c), 0x5a97808a);
    assert_int_equal(hash_murmur3_32("Hello, world!", 13, 0x9747b28c), 0x24884cba);
    assert_int_equal(hash_murmur3_32("The quick brown fox jumps over the lazy dog", 43, 0x9747b28c),
                     0x2fa826cd);
}

static void crc32c_has_its_known_values(void **state)
{
    uint8_t bytes[32];

    (void)state;
    assert_int_equal(hash_crc32c(0, "", 0), 0);
    assert_int_equal(hash_crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof(bytes)); /* RFC 3720 B.4 */
    assert_int_equal(hash_crc32c(0, bytes, sizeof(bytes)), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(hash_crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    assert_int_equal(hash_crc32c(0, bytes, sizeof(bytes)), 0x46dd794e);
}

static void crc32c_is_the_same_without_instructions(void **state)
{
    uint8_t bytes[257];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 151 + 7);
    for (size_t len = 0; len <= sizeof(bytes); len++) {
        uint32_t whole = hash_crc32c(0, bytes, len);

        assert_int_equal(whole, hash_crc32c_portable(0, bytes, len));
        assert_int_equal(
            whole, hash_crc32c(hash_crc32c(0, bytes, len / 3), bytes + len / 3, len - len / 3));
    }
}

static void xxh3_has_its_known_values(void **state)
{
    struct hash128 hash = hash_xxh128("", 0);

    (void)state;
    assert_true(hash_xxh64("", 0, 0) == 0x2d06800538d394c2);
    assert_true(hash.high == 0x99aa06d3014798d8);
    assert_true(hash.low == 0x6001c324468d497f);
    assert_true(hash_xxh64("a", 1, 0) != hash_xxh64("a", 1, 1));
}

static void a_hash_as_text_is_read_back_and_nothing_else_is(void **state)
{
    struct hash128 hash = hash_xxh128("", 0), back;
    char text[HASH128_TEXT_BYTES];

    (void)state;
    hash128_to_text(text, hash);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
    assert_true(hash128_from_text(&back, text, strlen(text)));
    assert_true(hash128_equal(back, hash));
    assert_false(hash128_from_text(&back, text, strlen(text) - 2));
    text[31] = 'g';
    assert_false(hash128_from_text(&back, text, strlen(text)));
}

static void sha256_has_its_known_values(void **state)
{
    uint8_t hash[32];
    char text[65];

    (void)state;
    hash_sha256(hash, "abc", 3);
    text_hex_encode(text, hash, sizeof(hash));
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_sha256(hash, "", 0);
    text_hex_encode(text, hash, sizeof(hash));
    assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(murmur3_has_its_known_values),
        cmocka_unit_test(crc32c_has_its_known_values),
        cmocka_unit_test(crc32c_is_the_same_without_instructions),
        cmocka_unit_test(xxh3_has_its_known_values),
        cmocka_unit_test(a_hash_as_text_is_read_back_and_nothing_else_is),
        cmocka_unit_test(sha256_has_its_known_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
