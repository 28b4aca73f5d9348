// What the routes that ask a registry driver share.
#pragma once

#include "core/api/engine.h"
#include "core/api/router.h"
#include "core/base/cancel.h"
#include "core/config/config.h"

namespace gantry::api {

/// A call of the registry driver that ends with the client, or with the engine's time for calls.
struct RegistryCall {
    CancelSource cancel;
    HangupWatch watch;
    CallScope call;
    RegistryCall(const Engine &engine, Exchange &x)
        : watch(x.connection, cancel), call([&] {
              CallScope::Settings settings;
              settings.cancel = &cancel;
              settings.timeout_ns = engine.settings->engine().call_timeout_ns;
              return settings;
          }()) {}
};

} // namespace gantry::api
