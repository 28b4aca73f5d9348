// A call as the engine would make it, for tests that link the driver: never cancelled, no deadline.
#pragma once

#include <gantry/call.hpp>

#include <cstdio>
#include <cstdlib>

struct TestCall {
    gantry_error_sink sink{sizeof sink, 0, nullptr,
                           [](void *, gantry_status, int32_t, const char *, const char *) {}};
    gantry_call raw{};
    TestCall() {
        raw.struct_size = sizeof raw;
        raw.cancel_fd = -1;
        raw.error = &sink;
        raw.subject = "";
    }
    operator gantry::Call() const { return gantry::Call(&raw); }
};

#define EXPECT(...)                                                                                          \
    do {                                                                                                     \
        if (!(__VA_ARGS__)) {                                                                                \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__);                   \
            std::exit(1);                                                                                    \
        }                                                                                                    \
    } while (0)

/// The class of what `work` throws; 0 if it throws nothing.
template <typename Work> gantry_status status_of(Work work) {
    try {
        work();
        return GANTRY_OK;
    } catch (const gantry::Error &error) {
        return error.status();
    }
}
