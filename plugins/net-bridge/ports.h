// Host ports: what is asked for, and holding what was given.
//
// A published port must not be taken by a program of the host meanwhile. For IPv4 a bound socket is
// kept (TCP not listening: the kernel translates before a socket would see anything); for IPv6 the
// relay gantry-portd listens, and so holds.
#pragma once

#include "addresses.h"
#include "netlink.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace gantry::bridge {

struct PortRange {
    uint16_t first = 0, last = 0;
    bool operator==(const PortRange &) const = default;
};
/// "32768-60999"; throws kInvalidArgument.
PortRange parse_port_range(std::string_view text);

/// Binds; -1 with errno when it cannot be had.
Fd bind_port(uint8_t protocol, const Address &host, uint16_t port);

/// Talks to gantry-portd, starts it when needed. Not thread-safe.
class PortdClient {
  public:
    PortdClient(std::string run_folder, std::string program)
        : run_(std::move(run_folder)), program_(std::move(program)) {}
    /// errno, 0: done. ENOSYS: there is no gantry-portd, or the host has no IPv6.
    int add(uint8_t protocol, const Address &host, uint16_t port, const Address &target,
            uint16_t target_port);
    int del(uint8_t protocol, const Address &host, uint16_t port);
    int mark() { return tell("mark", false); }
    int sweep() { return tell("sweep", false); }
    void quit();
    bool available() const;
    bool ready(); // starts the relay unless it runs; false: there is none

  private:
    bool reach();
    bool start();
    int tell(const std::string &command, bool start_it);
    std::string run_, program_;
    Fd socket_;
};

} // namespace gantry::bridge
