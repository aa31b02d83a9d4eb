-- Run with `psql -v password=...`: that of the user whom the gateway connects as.
CREATE TABLE orders (
    id BIGSERIAL PRIMARY KEY,
    item TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'new'
);

-- What the gateway is to do. It deletes a row when it is done.
CREATE TABLE gateway_outbox (
    id BIGSERIAL PRIMARY KEY,
    method TEXT NOT NULL,
    payload JSONB NOT NULL,
    partition INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX gateway_outbox_partition ON gateway_outbox (partition, id);

-- Wakes the gateway when a transaction with a new row has committed.
CREATE FUNCTION gateway_outbox_announce() RETURNS TRIGGER AS $$
BEGIN
    PERFORM pg_notify('gateway_outbox_changed', NEW.partition::TEXT);
    RETURN NEW;
END;
$$ LANGUAGE plpgsql;

CREATE TRIGGER gateway_outbox_announce AFTER INSERT ON gateway_outbox
    FOR EACH ROW EXECUTE FUNCTION gateway_outbox_announce();

-- It may do this, and nothing else.
CREATE ROLE gateway LOGIN PASSWORD :'password';
GRANT SELECT, DELETE ON gateway_outbox TO gateway;
