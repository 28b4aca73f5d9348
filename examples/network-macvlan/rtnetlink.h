// The few rtnetlink requests that a link needs. A socket belongs for ever to the namespace in which it was
// opened, so one opened by a short-lived thread inside the container's serves from outside.
#pragma once

#include <gantry/fd.hpp>
#include <gantry/network.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

class Rtnetlink {
  public:
    /// In the namespace, or in the caller's (-1).
    explicit Rtnetlink(int netns_fd = -1);

    struct Link {
        int index = 0; // 0: there is none
        uint32_t mtu = 0;
        std::string mac;
        gantry::NetworkStats stats;
    };
    Link find(const std::string &name);
    /// Gives an errno; EEXIST when the name is taken inside.
    int add_macvlan(int parent, int netns_fd, const std::string &name, const std::array<uint8_t, 6> &mac);
    void set_up(int link, const std::string &doing);
    void add_address(int link, uint32_t address, unsigned prefix, const std::string &doing);
    void add_default_route(int link, uint32_t gateway, const std::string &doing);
    void remove(int link, const std::string &doing);

  private:
    /// Gives the errno of the answer and, if it is wanted, what came before.
    int ask(std::vector<uint8_t> request, std::vector<uint8_t> *answer = nullptr);

    gantry::UniqueFd socket_;
    uint32_t sequence_ = 0;
};
