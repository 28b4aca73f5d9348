// Order, replay and overflow of the event stream.
#include "core/events/events.h"

#include <gtest/gtest.h>

#include <poll.h>
#include <thread>

namespace gantry {
namespace {

Event make(const std::string &action, int64_t time = 0) {
    Event event;
    event.type = "container";
    event.action = action;
    event.id = "c1";
    event.time_ns = time;
    return event;
}

bool readable(int fd) {
    pollfd p{fd, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
}

TEST(Events, DeliversInOrderAndSignalsFd) {
    Events events;
    auto s = events.subscribe(0);
    Event e;
    EXPECT_FALSE(s->next(e, 0));
    EXPECT_FALSE(readable(s->fd()));
    events.publish(make("start"));
    events.publish(make("die"));
    EXPECT_TRUE(readable(s->fd()));
    ASSERT_TRUE(s->next(e, 0));
    EXPECT_EQ(e.action, "start");
    EXPECT_NE(e.time_ns, 0);
    EXPECT_TRUE(readable(s->fd()));
    ASSERT_TRUE(s->next(e, 0));
    EXPECT_EQ(e.action, "die");
    EXPECT_FALSE(readable(s->fd()));
}

TEST(Events, ReplaysSince) {
    Events events;
    events.publish(make("old", 100));
    events.publish(make("new", 200));
    auto s = events.subscribe(150);
    Event e;
    ASSERT_TRUE(s->next(e, 0));
    EXPECT_EQ(e.action, "new");
    EXPECT_FALSE(s->next(e, 0));
}

TEST(Events, SlowSubscriberLosesTheOldest) {
    Events events;
    auto s = events.subscribe(0);
    for (int i = 0; i < 4100; ++i)
        events.publish(make(std::to_string(i)));
    Event e;
    ASSERT_TRUE(s->next(e, 0));
    EXPECT_EQ(e.action, "4");
}

TEST(Events, CloseWakesAWaiter) {
    Events events;
    auto s = events.subscribe(0);
    bool got = true;
    std::thread waiter([&] {
        Event e;
        got = s->next(e, -1);
    });
    s->close();
    waiter.join();
    EXPECT_FALSE(got);
    EXPECT_TRUE(readable(s->fd()));
}

TEST(Events, SubscriptionOutlivesTheSource) {
    auto events = std::make_unique<Events>();
    auto s = events->subscribe(0);
    events.reset();
    Event e;
    EXPECT_FALSE(s->next(e, -1));
}

} // namespace
} // namespace gantry
