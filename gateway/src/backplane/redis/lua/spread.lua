-- KEYS[1]: topic of a channel. ARGV[1]: head of the message for it. ARGV[2]: topic for subscribers of patterns.
-- ARGV[3]: head of the message for it. ARGV[4]: the rest of both messages. Every server of a Cluster passes on
-- what is published with PUBLISH.
redis.call('VERB', KEYS[1], ARGV[1] .. ARGV[4])
return redis.call('PUBLISH', ARGV[2], ARGV[3] .. ARGV[4])
