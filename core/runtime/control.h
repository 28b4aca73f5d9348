// The control socket between engine and shim, engine's side: one packet is one plan::Message, its text and
// its descriptors.
#pragma once

#include "core/base/fd.h"
#include "core/runtime/plan.h"

#include <string>
#include <sys/un.h>
#include <vector>

namespace gantry {

struct Packet {
    plan::Message message{};
    std::string text;
    std::vector<UniqueFd> fds;
};

/// At most 4 descriptors; they stay the caller's.
void send_packet(int fd, uint32_t command, uint32_t a, uint32_t b, const std::string &text,
                 const std::vector<int> &fds);
/// False at the end of the connection; kDeadline after `timeout_ms` without a packet.
bool receive_packet(int fd, Packet &packet, int timeout_ms);
/// Of a sandbox's socket, by a descriptor of its directory: sun_path holds 108 bytes, any path may be longer.
sockaddr_un control_address(int dir);

} // namespace gantry
