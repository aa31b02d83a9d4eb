-- An order, and the news of it: both are there, or neither.
BEGIN;

INSERT INTO orders (item) VALUES ('tea');

INSERT INTO gateway_outbox (method, payload)
SELECT 'publish', jsonb_build_object('channel', 'shop:orders', 'data', to_jsonb(orders))
FROM orders
WHERE id = currval('orders_id_seq');

COMMIT;
