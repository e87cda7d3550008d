"""The RabbitMQ nodes that the AMQP tests use."""

import kombu

from tests.support.rabbitmq import Node
from tests.support.rabbitmq_keeper import RabbitMQ


def publish_and_get(url: str, body: str) -> str:
    with kombu.Connection(url, connect_timeout=5) as connection, connection.SimpleQueue("letters") as queue:
        queue.put(body)
        message = queue.get(timeout=5)
        message.ack()
        return message.payload


def test_a_message_goes_through_the_shared_node(amqp_url: str) -> None:
    assert publish_and_get(amqp_url, "hello") == "hello"


def test_each_virtual_host_is_a_bus_of_its_own(rabbitmq: RabbitMQ) -> None:
    one, other = rabbitmq.new_vhost(), rabbitmq.new_vhost()
    assert one != other
    with kombu.Connection(one) as connection, connection.SimpleQueue("letters") as queue:
        queue.put("for one")
        assert publish_and_get(other, "for the other") == "for the other"
        assert queue.qsize() == 1


def test_a_node_of_ones_own_keeps_its_messages_when_it_stops(own_rabbitmq: Node) -> None:
    with kombu.Connection(own_rabbitmq.url()) as connection, connection.SimpleQueue("letters") as queue:
        queue.put("kept")
    own_rabbitmq.stop()
    own_rabbitmq.start()
    with kombu.Connection(own_rabbitmq.url()) as connection, connection.SimpleQueue("letters") as queue:
        assert queue.get(timeout=5).payload == "kept"
