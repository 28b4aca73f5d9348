// The engine's values as Docker's JSON objects.
#pragma once

#include "core/api/engine.h"

#include <boost/json/fwd.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace gantry {
struct ContainerInfo;
struct Endpoint;
struct Event;
struct ImageInfo;
struct Network;
struct Volume;
} // namespace gantry

namespace gantry::api {

boost::json::object render_container(const Engine &engine, const ContainerInfo &info, bool size);
boost::json::object render_container_row(const Engine &engine, const ContainerInfo &info, bool size);
boost::json::object render_image(const Engine &engine, const ImageInfo &image, int api_minor);
boost::json::object render_image_row(const ImageInfo &image, int api_minor, int64_t containers);
boost::json::object render_network(const Engine &engine, const Network &network, bool with_containers);
boost::json::object render_volume(const Volume &volume);
boost::json::object render_event(const Event &event);

boost::json::object labels_json(const std::map<std::string, std::string> &labels);
boost::json::array strings_json(const std::vector<std::string> &strings);
/// Answers with the document and a line end.
void reply(Exchange &exchange, int status, const boost::json::value &value);
/// The request's body as an object; "" is an empty one. Checks Content-Type when there is a body.
boost::json::object body_object(Exchange &exchange, bool need_type = false);

} // namespace gantry::api
