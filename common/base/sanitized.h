/* What this is built with, 0 or 1: gcc and clang say it differently.  In code, and after #if. */
#ifndef VICINAL_BASE_SANITIZED_H
#define VICINAL_BASE_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__)
#define IS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IS_ASAN 1
#endif
#endif
#ifndef IS_ASAN
#define IS_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__)
#define IS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_TSAN 1
#endif
#endif
#ifndef IS_TSAN
#define IS_TSAN 0
#endif

#define IS_SANITIZED (IS_ASAN || IS_TSAN)

#endif
