// Networks and endpoints as the JSON texts of their columns.
#pragma once

#include <gantry/network.hpp>

#include <string>
#include <vector>

namespace gantry {

std::string to_json(const NetworkSpec &spec);
std::string to_json(const EndpointSpec &spec); // without the namespace: a descriptor means nothing later
std::string to_json(const EndpointInfo &info);
std::string to_json(const std::vector<PortBinding> &ports);
// Throw Error(kDataLoss) on text that these functions did not write.
NetworkSpec network_spec_from_json(const std::string &text);
EndpointSpec endpoint_spec_from_json(const std::string &text);
EndpointInfo endpoint_info_from_json(const std::string &text); // "": nothing settled
std::vector<PortBinding> ports_from_json(const std::string &text);

} // namespace gantry
