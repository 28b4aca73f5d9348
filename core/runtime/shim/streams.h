// The streams between the supervised process, its log and the attached connections.
#pragma once

#include "core/runtime/shim/shim.h"

namespace gantry::shim {

enum Tag : uint32_t {
    kTagControl = 1,
    kTagListen,
    kTagSignal,
    kTagChild,
    kTagOut,
    kTagErr,
    kTagIn,
    kTagTimer,
    kTagClient = 64,
    kTagEngine = 256
};

struct StreamSetup {
    int in = -1, out = -1, err = -1; // supervisor's ends; a terminal: in and out are the same descriptor
    bool terminal = false, stdin_once = false, exec = false;
};

bool watch(int fd, uint32_t events, uint32_t tag, bool add);
void unwatch(int fd);

void streams_start(const StreamSetup &setup);
int streams_terminal();
/// Takes the connection; false when there is no room.
bool streams_attach(int fd, uint32_t flags, const char *keys, size_t key_count);
void streams_event(uint32_t tag, uint32_t events);
/// The process is gone: read what is left, then let the clients take it.
void streams_finish();
/// Everything delivered and closed.
bool streams_done();
void streams_abort();

} // namespace gantry::shim
